"""``python -m cluster`` is ``leworld``."""

import sys

from cluster.cli import main

sys.exit(main())

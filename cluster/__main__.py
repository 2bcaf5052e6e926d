"""``python -m cluster`` is ``leworld``."""

import sys

from cluster.cli.app import main

sys.exit(main())

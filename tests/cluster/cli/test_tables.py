"""Tables: aligned, whole lines in a file, and nothing in a cell is markup."""

import subprocess
import sys

from cluster.cli.tables import markdown_table, print_table

ROWS = [("a", "1", "[1.07, 1.11]"), ("long name", "1,000", "[bold]")]


def test_columns_are_aligned_and_lines_have_no_blanks_at_their_end(capsys):
    print_table(ROWS, ("name", "count", ""), right=(1,))
    assert capsys.readouterr().out == ("name       count\na              1  [1.07, 1.11]\nlong name  1,000  [bold]\n")


def test_without_a_head_the_rows_come_first(capsys):
    print_table(ROWS)
    assert capsys.readouterr().out.startswith("a          1      [1.07, 1.11]\n")


def test_a_file_gets_long_lines_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_table([("x" * 300, "y" * 300)], ("first", "second"), styles=["red"])
    assert capsys.readouterr().out.splitlines()[1] == f"{'x' * 300}  {'y' * 300}"


def test_a_pipe_is_no_terminal():
    code = "from cluster.cli.tables import print_table; print_table([('x' * 200, 'end')], title='t')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == f"t\n{'x' * 200}  end\n"


def test_markdown():
    assert markdown_table([("a", "1")], ("name", "count"), right=(1,)) == ("| name | count |\n|---|---:|\n| a | 1 |")

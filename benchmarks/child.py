"""The main script of a process that measures one library in one case.

A worker that is not forked imports its parent's main script before anything else.  So there is nothing in
this one: its workers shall start as those of a short program do, not read the whole suite first.
"""

import sys

if __name__ == "__main__":
    from benchmarks.runner import run_case

    run_case(sys.argv[1:])

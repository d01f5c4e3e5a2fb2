"""`python -m levl_eval.cli`, as launchers call it."""

import sys

from levl_eval.cli import main

sys.exit(main())

"""`python -m levl_eval.cli`, as launchers call it."""

import sys

from levl_eval.cli.app import main

sys.exit(main())

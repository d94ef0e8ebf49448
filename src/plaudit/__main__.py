"""`python -m plaudit` is the same as `plaudit`."""

import sys

from plaudit.cli import main

sys.exit(main())

"""`python -m caliper`: the `caliper` command."""

import sys

from caliper.cli import main

sys.exit(main())

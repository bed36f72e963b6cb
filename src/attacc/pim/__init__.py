"""Everything inside one stack: where data lies, what is issued, when, on what, at what cost."""

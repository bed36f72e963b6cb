"""The fuzz campaign: every reader of what comes from outside, under damaged and random input.

`mutations` damages valid input, `specified` makes documents from their specifications, `readers`
lists the readers, and `runner` plays inputs through one of them and writes down its faults.
``python -m tests.campaign`` is the long form (docs/evidence/campaign.md); the tests are the short
one.
"""

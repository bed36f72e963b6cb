"""The cost model of the AttAcc papers."""

"""The figures of the AttAcc papers, made again."""

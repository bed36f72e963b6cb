"""What values result: number formats, modelled banks, and a program executed on data."""

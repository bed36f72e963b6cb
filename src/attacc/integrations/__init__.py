"""Other people's software on modelled AttAccs; nothing here loads unless it is asked for."""

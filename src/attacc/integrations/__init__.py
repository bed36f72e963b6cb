"""Other people's software on modelled AttAccs. Its libraries are loaded only when they are used."""

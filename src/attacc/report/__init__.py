"""Tables, figures and pages of the library's answers."""

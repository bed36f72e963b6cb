"""The questions that people ask of everything else: comparison, accuracy, papers, claims."""

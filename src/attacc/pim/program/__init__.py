"""What is issued: command programs, their schedules, and their text form."""

"""What to judge, when to drop it, and what to answer. Pure functions of numbers; the study mirror is the exception."""

"""What is kept on disk: learners, records, exchange.

Knows no science, and imports nothing above the method.
"""

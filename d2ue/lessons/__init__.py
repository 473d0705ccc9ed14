"""What the figures' notebooks measure, with their pictures beside them.

May import everything but the commands.
"""

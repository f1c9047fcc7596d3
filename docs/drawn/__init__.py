"""What the pages draw from the code while they are built: tables, the picture of a session, the manual pages.

Each module is a Sphinx extension with a directive or two. A table made here cannot say anything else than the code
does: it is the code's own answer to questions asked one after the other.
"""

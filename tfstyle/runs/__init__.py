"""What a command does in a folder.

Each module is a run of one kind; :class:`~tfstyle.runs.folder.RunFolder` serves all of them.
"""

"""The ``smtp`` transport agent: ZMailer's files, words and flags, and nothing else's."""

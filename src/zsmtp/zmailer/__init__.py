"""The ``smtp`` transport agent: the files, formats and options of ZMailer."""

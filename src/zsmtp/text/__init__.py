"""Text for terminals: styles, widths, wrapped lines, trees. Nothing here knows what the text is about."""

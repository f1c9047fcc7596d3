"""Text for terminals: styles, widths, wrapped lines, trees. Independent of the content of the text."""

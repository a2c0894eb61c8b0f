"""The HTML report and the page for human votes."""

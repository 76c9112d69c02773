"""The release of a version of the template, and what holds between releases. Not shipped."""

"""This pilot's own half: five files, and nothing of the standard's."""

"""A real S3 server, for the tests of object stores; ``install.sh`` here installs it."""

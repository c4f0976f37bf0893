"""What `autoresearch doctor` looks at: one module a section."""

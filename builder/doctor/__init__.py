"""What a machine lacks for reading, pulling and building, and how to mend it; one file a subject."""

"""Which blocks are patched first, and which layers a student keeps."""

"""Pictures: from any source to the tensors that vision models read, and from their outputs back to pixels."""

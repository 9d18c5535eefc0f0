"""Many processes: how a model and its optimizer are spread over them, by the ecosystem's engines."""

"""What being seen costs: progress page and probes in the library, and a tracer that looks on."""

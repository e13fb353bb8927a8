"""A server that classifies images: protocols, batching, monitoring, and a page to try it."""

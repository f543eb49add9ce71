"""Whether padding can reach what a model puts out."""

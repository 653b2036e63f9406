"""How the bytes move: the queue, the HTTP client, hashed tensors."""

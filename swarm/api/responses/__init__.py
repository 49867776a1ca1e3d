"""The Responses API: bodies, objects, events, stored conversations and the handler that joins them."""

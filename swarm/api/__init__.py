"""The front door: OpenAI's API over Quart."""

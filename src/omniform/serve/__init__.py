"""A server that speaks OpenAI's API; it holds no logic of generation, which is the engine's."""

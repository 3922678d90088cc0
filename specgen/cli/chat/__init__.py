"""The chat: a person's lines in, commands done, answers streamed."""

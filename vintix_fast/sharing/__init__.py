"""Files for and from other tools: other formats of models and histories, the Hugging Face Hub."""

"""What the pages of the service and of `watch` need: files, facts about the model, corrections."""

"""What is trained once and kept in a file: the settings that name it, the steps, the weights, the command."""

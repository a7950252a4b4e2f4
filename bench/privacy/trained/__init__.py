"""What is trained once and kept in a file: settings that name it, a training that can go on, the weights, the command."""

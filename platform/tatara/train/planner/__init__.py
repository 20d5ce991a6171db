"""What a run needs and how fast it will be, before anything is started: memory, time and the best layouts."""

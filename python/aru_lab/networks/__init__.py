"""The networks that are trained: recurrent parts, encoder, read-out, and the perturbations of their inputs."""

"""The tables of new adapters, one for each type of PEFT's that is trained here, sorted by how they change a weight."""

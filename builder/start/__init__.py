"""What a team does to its repository: begin it; begin, rename and end a variant; move to a newer tool."""

"""What a layer, a stack and a loop are, whatever front end holds their parameters."""

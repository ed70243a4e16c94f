"""Every chunk of an utterance with the states it really had."""

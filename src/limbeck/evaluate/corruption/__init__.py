"""What happens to samples in the world: noise, blur, jpeg; typos, lost words. Five strengths."""

"""What reads recordings: pictures, videos, bags, SCARED, structure from motion; one module per kind."""
